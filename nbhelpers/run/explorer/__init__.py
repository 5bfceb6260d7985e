"""The explorer: what each layer of a pair would say to a typed prompt, as it is and with MLPs or a dose changed.

    sources    the pair, its tuned lenses and its directions, loaded once
    reading    replies and lens readings of both models and of edited ones, each kept by its arguments
    pictures   the charts, which the book's page of chosen prompts draws too
    address    a view as the part of an address behind `#`, which that page opens
    scene      what is shown for a state of the controls
    desk       the widgets of `notebooks/explore.ipynb`, with the grid of `grid.js`

Only `desk` and `grid` know of widgets.
"""
