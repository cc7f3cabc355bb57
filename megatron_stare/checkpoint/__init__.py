"""A run on disk: folders that are complete or do not exist, who may write them, what may go on."""
