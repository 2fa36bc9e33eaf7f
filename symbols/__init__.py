"""MobileNetV2 as an MXNet Symbol and as a Gluon HybridBlock, both made from one table."""
