"""What surrounds a capture: namespaces, the kernel, the node, the pod and its proxy. Read, entered, waited for."""
