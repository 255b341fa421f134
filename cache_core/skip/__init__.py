"""Skip-DiT and Skip-Cache (arXiv:2411.17616): long skip branches and the networks that have them."""
