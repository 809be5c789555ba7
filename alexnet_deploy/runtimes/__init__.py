"""Sessions: one module a runtime, one interface for all."""
