"""Classification: probing and fine-tuning."""
