"""The reps' WhatsApp templates panel."""
