"""The proxy of a captured pod without a control plane: Envoy's bootstrap from settings and mesh objects."""
