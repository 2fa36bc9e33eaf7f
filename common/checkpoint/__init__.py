"""A checkpoint's files, read and written without MXNet but in `ndarrays`: parameters, symbol, preprocessing. Imports
base/ and symbols/."""
