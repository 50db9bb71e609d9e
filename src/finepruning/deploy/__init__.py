"""What the device gets: a smaller network, one file that other runtimes run, and what it takes
there. Knows networks and data, and nothing of how a network was personalised."""
