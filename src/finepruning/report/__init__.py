"""What was done and what it cost: as a record, as JSON and as a text."""
