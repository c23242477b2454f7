"""Pictures of a graph as SVG: read off the program, folded, placed, drawn; `draw.draw` does all."""
