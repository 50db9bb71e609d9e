"""The person's data, in whatever form they hold it, as calls of a network: tensors and loaders,
folders of images and recordings, and what is padding in them. Knows nothing of layers or steps."""
