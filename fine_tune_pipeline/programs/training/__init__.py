"""Fine-tuning: one optimizer step, what surrounds it, and what keeps it from being lost."""
