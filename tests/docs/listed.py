"""The blocks that tests/docs/test_blocks.py does not run itself: who does, or why nobody does."""

# The tests that run blocks and read their pages -> these blocks.
ELSEWHERE = {
    "tests/docs/test_first_hour.py": [
        "docs/first-hour.md: pip install '.[fast,lite]'",
        "docs/first-hour.md: tokenmix submit photos maps --teacher efficientnet",
    ],
    "tests/test_readme.py": [
        "README.md: import numpy as np, timm, torch",
    ],
    "tests/store/format/test_format_page.py": [
        "docs/format.md: import json",
    ],
    "tests/tokenmix_loader/mixing/test_loops_page.py": [
        "docs/loops.md: import numpy as np",
        "docs/loops.md: from tokenmix_loader import MapTarget",
        "docs/loops.md: collate = TokenMixCollate(store, (14, 14), num_cla",
    ],
    "tests/tokenmix_loader/mixing/test_timm_train.py": [
        "docs/timm.md: +import numpy as np",
    ],
    "tests/store/transfer/test_sharing_page.py": [
        "docs/sharing.md: pip install 'tokenmix-maps[share]'",
        "docs/sharing.md: from tokenmix_loader import MapStore",
    ],
    "tests/tokenmix_commands/test_completion.py": [
        'docs/command-line.md: eval "$(_TOKENMIX_COMPLETE=bash_source tokenmix)"',
    ],
}
# Why blocks are not run -> these blocks; their commands are parsed.
NOT_RUN = {
    "minutes; the demos have tests in tests/recipes": [
        "README.md: make demo     # the main job on real photographs,",
    ],
    "more than an hour; tests/recipes/test_ablation.py has it with few digits": [
        "docs/results.md: python -m recipes.ablation.run runs --arms all --s",
    ],
    "needs ImageNet and weights from a model hub": [
        "README.md: pip install '.[fast]'     # in a checkout; `fast`",
        "docs/importing.md: tokenmix extract imagenet/train maps --teacher nfn",
        "recipes/train/tables.md: tokenmix extract imagenet/train maps --teacher nfn",
    ],
    "tests themselves": [
        "CONTRIBUTING.md: .venv/bin/python -m pytest tests/tokenmix_loader/s",
    ],
    "needs a cluster": [
        "docs/cluster.md: tokenmix submit IMAGES STORE --teacher resnet101 -",
    ],
    "needs jq, which is no dependency, and waits for a job": [
        "docs/command-line.md: until [ \"$(tokenmix status maps --json | jq '.rows",
    ],
    "tests/recipes/test_evaluate.py has it with small students": [
        "docs/gallery.md: python -m recipes.evaluate.attention IMAGES --mode",
        "docs/gallery.md: python -m recipes.evaluate.confidences IMAGES --ch",
    ],
    "tests/recipes/test_occlusion.py has it with small students": [
        "docs/gallery.md: python -m recipes.evaluate.occlusion IMAGES --chec",
    ],
    "tests/recipes/test_evaluate.py has it": [
        "docs/gallery.md: python -m recipes.evaluate.masks IMAGES MAPS",
        "docs/gallery.md: python -m recipes.evaluate.salient_area IMAGES MAP",
    ],
    "needs the published archives; tests/extract/published has it with small ones": [
        "docs/importing.md: tokenmix import tokenlabeling label_top5_train_nfn",
    ],
    "tests/recipes/test_occlusion.py has it with a small student": [
        "docs/loops.md: python -m recipes.evaluate.occlusion imagenet/val",
    ],
    "a training of days; tests/recipes/test_train.py has it with a small student": [
        "docs/timm.md: python -m recipes.train.train IMAGES MAPS --val VA",
    ],
    "tests/recipes/test_context_digits.py has fewer images": [
        "recipes/context_digits/README.md: python -m recipes.context_digits.generate ROOT --c",
    ],
    "an hour": [
        "recipes/context_digits/README.md: python -m recipes.context_digits.train_teacher rec",
    ],
    "tests/recipes/test_context_digits.py does so from Python": [
        "recipes/context_digits/README.md: tokenmix extract ROOT/images MAPS --teacher test_r",
    ],
    "installs a package": [
        "recipes/cut_outs/README.md: apt-get install tuxpaint-stamps-default        # o",
    ],
    "needs a mirror of Debian": [
        "recipes/cut_outs/README.md: apt-get download tuxpaint-stamps-default && dpkg-d",
    ],
    "needs weights and an hour": [
        "recipes/cut_outs/README.md: python -m recipes.cut_outs.choose_labels lite0.pth",
    ],
    "trainings of days; tests/recipes/test_train_tables.py gives every row to the program": [
        "recipes/train/tables.md: python -m recipes.train.train imagenet/train maps",
    ],
}
