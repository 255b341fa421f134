"""Visual autoregression: VAR (arXiv 2404.02905), and CoDe (arXiv 2411.17787), which lets two sizes of it share a picture."""
