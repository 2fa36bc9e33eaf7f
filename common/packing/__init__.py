"""Images into RecordIO: sources, order, progress, inspection. Imports base/ and images/."""
