"""Speed of the neurons compared with the usual alternatives, and of a whole translator that uses them."""
