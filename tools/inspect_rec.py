#!/usr/bin/env python
"""What a RecordIO file of images holds, and whether it is damaged. Examples:

    python tools/inspect_rec.py train.rec
    python tools/inspect_rec.py train.rec --contact-sheet train.png --images 40
    python tools/inspect_rec.py train.rec --check

prints counts, classes and sizes; draws random images with their labels; decodes every image, and compares the
checksums with those of dataset.json beside the file.
"""
import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.images.class_names import read_names
from common.images.recordio import files_of

FEW = 20  # classes that are listed without --all-classes


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("rec", help="RecordIO file of images")
    parser.add_argument("--synset", help="names of the classes, one line each (default: synset.txt beside the file, "
                        "if there is one)")
    parser.add_argument("--all-classes", action="store_true",
                        help=f"list every class, even if there are more than {FEW}")
    sheet = parser.add_argument_group("contact sheet")
    sheet.add_argument("--contact-sheet", metavar="PNG", help="draw random images with their labels to this file")
    sheet.add_argument("--images", type=positive, default=40, help="how many, to 1000")
    sheet.add_argument("--seed", type=not_negative, default=0, help="which ones")
    check = parser.add_argument_group("check")
    check.add_argument("--check", action="store_true", help="decode every image and compare the checksums")
    check.add_argument("--workers", type=positive, default=None, help="threads (default: one for each processor)")
    return parser


def main(args: argparse.Namespace) -> None:
    from common.packing.inspection import contact_sheet, problems, summarise

    if args.contact_sheet:
        beside = [Path(args.rec).with_name(name) for name in ("synset.txt", "dataset.json")]
        check_not_read(args.contact_sheet, args.synset, *files_of(args.rec), *beside)
    summary = summarise(args.rec)
    names = class_names(args)
    print(f"{args.rec}: {len(summary.offsets)} records, {summary.bytes / 1e9:.3f} GB"
          + (f", {summary.unreadable} of them not images" if summary.unreadable else ""))
    print_classes(summary.labels, names, args.all_classes)
    print_sizes(summary.sizes)
    if args.contact_sheet:
        contact_sheet(args.rec, summary, names, args.contact_sheet, args.images, args.seed)
        print(f"{args.contact_sheet}: {min(args.images, len(summary.offsets))} of the images")
    if args.check:
        found = 0
        for problem in problems(args.rec, args.workers):
            print(problem, file=sys.stderr)
            found += 1
        if found:
            raise InputError(f"{args.rec}: {found} problem{'s' * (found > 1)} found")
        print(f"{args.rec}: not damaged; every image was decoded")


def class_names(args: argparse.Namespace) -> list[str]:
    path = Path(args.synset) if args.synset else Path(args.rec).with_name("synset.txt")
    if not args.synset and not path.exists():
        return []
    return read_names(path)


def print_classes(labels: Counter[float], names: list[str], every: bool) -> None:
    """A line for each class, or for the five that have the fewest and the five that have the most images."""
    counts = sorted(labels.items(), key=lambda item: (item[1], item[0]))
    print(f"classes: {len(counts)}, with {counts[0][1]} to {counts[-1][1]} images")
    few = len(counts) <= FEW or every
    longest = counts[-1][1]
    for label, count in sorted(counts) if few else counts[:5] + [(None, None)] + counts[-5:]:
        if label is None:
            print("  ...")
        else:
            name = names[int(label)] if label in range(len(names)) else ""
            print(f"  {label:>4} {'#' * round(30 * count / longest):30} {count:7} {name}".rstrip())


def print_sizes(sizes: Counter[tuple[int, int]]) -> None:
    if not sizes:
        return
    total = sum(sizes.values())
    for what, side in (("shorter side", min), ("longer side", max)):
        sides = sorted((side(size), count) for size, count in sizes.items())
        seen, median = 0, None
        for length, count in sides:
            seen += count
            if median is None and 2 * seen >= total:
                median = length
        print(f"{what}: {sides[0][0]} to {sides[-1][0]} pixels, median {median}")
    print("most frequent: " + ", ".join(f"{width}x{height} ({100 * count / total:.0f} %)"
                                        for (width, height), count in sizes.most_common(5)))


if __name__ == "__main__":
    with reported("inspect_rec.py"):
        main(get_args_parser().parse_args())
