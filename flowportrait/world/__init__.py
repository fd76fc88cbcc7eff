"""The rendered world: procedural talking heads with sound and exact ground truth, made on the CPU.

`sets` renders whole data sets, `degrade` makes clips worse by a known amount; all else serves these
two. Lengths are centimetres, x to the viewer's right, y up, z towards the camera; colours inside
are linear RGB.
"""
