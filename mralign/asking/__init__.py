"""An instruction and a reply held to a schema become a checked object, or a reject that says why not."""
