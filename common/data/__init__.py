"""Images from RecordIO files, as training and evaluation take them."""
