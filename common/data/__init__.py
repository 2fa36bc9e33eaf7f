"""Images from RecordIO files, as training and evaluation take them. Imports base/, checkpoint/, images/ and MXNet."""
