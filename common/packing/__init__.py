"""From the images that people have to the RecordIO files that MXNet reads."""
