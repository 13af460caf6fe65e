"""A linear head for one's own classes, fitted on the pooled features of any backbone."""
