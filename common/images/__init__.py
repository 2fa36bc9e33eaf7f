"""Images in RecordIO and in files: records, decoding, what is done to a photograph, class names, their flags. Imports
base/ and checkpoint/."""
