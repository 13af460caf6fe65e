"""Cut-outs: photographed objects of ImageNet classes on real photographs, with pixel masks, generated offline."""
