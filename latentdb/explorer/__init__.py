"""The explorer: a page on which a store is looked at, searched and blended.

`guard` decides which requests are answered at all, and `patience` for how long they are waited
for.  `views` computes what the page shows, with the rows of `versions`, the `latents` of `blends`,
the `lists` to go through, and the `tiles` of thumbnails; `api` and `app` give them routes,
`serving` opens the port.  `site` writes the same page as static files, with the runtime that
`ort_web` brings.

`page` holds the page: plain HTML, CSS and JavaScript modules, without a build step, that load
nothing from elsewhere.  All data come from its `source.js`, which asks the server; a site has
that of `page/site` in its place, which reads files and computes in a worker.
"""
