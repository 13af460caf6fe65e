"""The calls that timm's train.py (1.0.x) makes for data, mixing, losses and epochs, in its order and with its defaults.

timm's wheel and source distribution leave train.py out. Kept as there, by name: the options, `mixup_active`,
`mixup_args`, and which loss and which collate function follow from them. `docs/timm.md` is applied to this text.
"""

import argparse

import torch
from timm.data import AugMixDataset, FastCollateMixup, Mixup, create_dataset, create_loader
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

parser = argparse.ArgumentParser()
parser.add_argument("--data-dir")
parser.add_argument("--num-classes", type=int)
parser.add_argument("--img-size", type=int, default=48)
parser.add_argument("-b", "--batch-size", type=int, default=8)
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("-j", "--workers", type=int, default=0)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--train-crop-mode")
parser.add_argument("--color-jitter", type=float, default=0.4)
parser.add_argument("--aa")
parser.add_argument("--aug-repeats", type=float, default=0)
parser.add_argument("--aug-splits", type=int, default=0)
parser.add_argument("--bce-loss", action="store_true")
parser.add_argument("--reprob", type=float, default=0.0)
parser.add_argument("--remode", default="pixel")
parser.add_argument("--mixup", type=float, default=0.0)
parser.add_argument("--cutmix", type=float, default=0.0)
parser.add_argument("--cutmix-minmax", type=float, nargs="+")
parser.add_argument("--mixup-prob", type=float, default=1.0)
parser.add_argument("--mixup-switch-prob", type=float, default=0.5)
parser.add_argument("--mixup-mode", default="batch")
parser.add_argument("--mixup-off-epoch", type=int, default=0)
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--train-interpolation", default="random")
parser.add_argument("--no-prefetcher", action="store_true")


def main(argv: list[str]) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Train; the images and targets of every batch that reached the loss, by epoch."""
    args = parser.parse_args(argv)
    args.prefetcher, args.rank = not args.no_prefetcher, 0
    device = torch.device("cpu")
    torch.manual_seed(args.seed)
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, args.num_classes)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    num_aug_splits = args.aug_splits

    dataset_train = create_dataset("", root=args.data_dir, is_training=True, batch_size=args.batch_size)

    # setup mixup / cutmix
    collate_fn = None
    mixup_fn = None
    mixup_active = args.mixup > 0 or args.cutmix > 0.0 or args.cutmix_minmax is not None
    if mixup_active:
        mixup_args = dict(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, cutmix_minmax=args.cutmix_minmax, prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob, mode=args.mixup_mode, label_smoothing=args.smoothing,
            num_classes=args.num_classes,
        )  # fmt: skip
        if args.prefetcher:
            assert not num_aug_splits
            collate_fn = FastCollateMixup(**mixup_args)
        else:
            mixup_fn = Mixup(**mixup_args)

    if num_aug_splits > 1:
        dataset_train = AugMixDataset(dataset_train, num_splits=num_aug_splits)
    loader_train = create_loader(
        dataset_train, input_size=(3, args.img_size, args.img_size), batch_size=args.batch_size, is_training=True,
        use_prefetcher=args.prefetcher, re_prob=args.reprob, re_mode=args.remode, train_crop_mode=args.train_crop_mode,
        color_jitter=args.color_jitter, auto_augment=args.aa, num_aug_repeats=args.aug_repeats,
        num_aug_splits=num_aug_splits, interpolation=args.train_interpolation, num_workers=args.workers,
        collate_fn=collate_fn, device=device,
    )  # fmt: skip

    if mixup_active:
        train_loss_fn = BinaryCrossEntropy() if args.bce_loss else SoftTargetCrossEntropy()
    elif args.smoothing:
        train_loss_fn = LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    else:
        train_loss_fn = torch.nn.CrossEntropyLoss()

    trained: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for epoch in range(args.epochs):
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            if args.prefetcher and loader_train.mixup_enabled:
                loader_train.mixup_enabled = False
            elif mixup_fn is not None:
                mixup_fn.mixup_enabled = False
        trained.append([])
        for input, target in loader_train:  # noqa: A001 -- timm's name
            if not args.prefetcher:
                input, target = input.to(device=device), target.to(device=device)  # noqa: A001
                if mixup_fn is not None:
                    input, target = mixup_fn(input, target)  # noqa: A001
            loss = train_loss_fn(model(input), target)
            loss.backward()
            optimizer.step()
            trained[-1].append((input, target))
    return trained
