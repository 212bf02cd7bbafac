"""Machines of EC2 for a sweep: what they can do and cost, whether all is ready for them, how Ray makes them."""
