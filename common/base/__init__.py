"""What every other room uses: errors, arguments, files, checksums, this machine, processes. Imports nothing else of
common/."""
