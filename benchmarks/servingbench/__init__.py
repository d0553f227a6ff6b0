"""What the serving benchmark is measured against: a plain loop, and another simulator."""
