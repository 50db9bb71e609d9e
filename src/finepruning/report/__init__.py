"""What was done and what it cost, in the forms that people and programs read. Each form takes the
plain dict of :meth:`finepruning.Report.to_dict`, which every version of an artifact keeps."""
