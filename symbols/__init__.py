"""The network. Imports MXNet and itself alone, relatively: the folder can be copied into anyone's project."""
