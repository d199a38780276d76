"""The way in: from a delivery, by way of a claim, to a finished record."""
