"""`generate` in JAX: its options, what changes the scores, and the two searches, each in one `jax.jit`."""
