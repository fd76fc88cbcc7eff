"""Pages for a browser: rating the clips of a study. Plain HTML, CSS and JavaScript; nothing comes
from elsewhere.
"""
