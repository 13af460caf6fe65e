"""Masks that are the optimum of something: Puzzle Mix (arXiv 2009.06962) and Co-Mixup (arXiv 2102.03065).

Both ask which blocks of which images show most of what matters while neighbouring blocks stay together. They were
published with the gradient of the loss as what matters, which costs a second forward and backward pass; here it is the
evidence of the stored maps, aligned with the crops, or any `saliency` of the user's.
"""
