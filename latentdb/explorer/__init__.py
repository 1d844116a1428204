"""The explorer: a local page on which a store is looked at, searched and blended.

`guard` decides which requests are answered at all, `views` computes what the page shows,
`app` gives both their routes, and `serving` opens the port.  `page` holds the page: plain
HTML, CSS and JavaScript modules, without a build step, that load nothing from elsewhere.
"""
