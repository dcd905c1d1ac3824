"""The sidecar in a workload: who gets one, what is written into its manifest, and how it is taken out again."""
