"""How fast the neurons are beside what people use in their place, and a whole translator through them."""
