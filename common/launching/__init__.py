"""Starting the processes of a distributed run, here or over ssh. Imports base/."""
