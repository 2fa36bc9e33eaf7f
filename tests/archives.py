"""Synthetic archives in the exact form of ILSVRC 2012's, with the odd files that the real ones and others' hold."""
import io
import tarfile

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from scipy.io import savemat

# ILSVRC2012_ID is not in the order of the WordNet ids, and there are synsets that are no classes
CLASSES = {"n00000007": 2, "n00000011": 1, "n00000042": 3}
NOT_CLASSES = {"n00000001": 5, "n00000099": 4}


def photograph(seed, height, width):
    """uint8 (height, width, 3), RGB, smooth and coloured, different in each corner."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(rgb, image_format="JPEG", mode="RGB", **options):
    buffer = io.BytesIO()
    # a palette, of all grey levels, and floating-point numbers are of one channel
    image = Image.fromarray(rgb).convert("L" if mode in "PF" else "RGB").convert(mode)
    image.save(buffer, image_format, **({"quality": 95} if image_format == "JPEG" else {}), **options)
    return buffer.getvalue()


def ycck(rgb):
    cmyk = np.asarray(Image.fromarray(rgb).convert("CMYK"))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(255 - cmyk), 95, "CMYK", "444")


def transparent(rgb):
    """Fully so at its left edge."""
    image = Image.fromarray(rgb)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, rgb.shape[1]).astype(np.uint8), (rgb.shape[0], 1))))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def with_fill_bytes(jpeg):
    """Before its first segment, which is legal."""
    return jpeg[:2] + b"\xff\xff" + jpeg[2:]


def with_orientation(rgb, orientation, image_format="JPEG"):
    """`rgb` as a camera stores it that was held so."""
    turned = {1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.transpose(1, 0, 2),
              6: np.rot90(rgb, 1), 7: rgb[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(rgb, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(turned), image_format, exif=exif)


def with_broken_exif(jpeg):
    return jpeg[:2] + b"\xff\xe1\x00\x14Exif\0\0MM\x00\x2a\xff\xff\xff\xff\xff\xff\xff\xff" + jpeg[2:]


def odd_files():
    """{name: (content, the RGB image it shows, or None where it is to be skipped)}."""
    def rgb(seed, height=90, width=120):
        return photograph(100 + seed, height, width)

    def grey(image):
        return np.repeat(np.asarray(Image.fromarray(image).convert("L"))[:, :, np.newaxis], 3, axis=2)

    files = {
        "cmyk": (encoded(rgb(0), mode="CMYK"), rgb(0)),
        "cmyk_exif": (encoded(rgb(1), mode="CMYK", exif=Image.Exif()), rgb(1)),
        "ycck": (ycck(rgb(2)), rgb(2)),
        "png": (encoded(rgb(3), "PNG"), rgb(3)),
        "png_alpha": (transparent(rgb(4)), rgb(4)),
        "png_palette": (encoded(grey(rgb(5)), "PNG", "P"), grey(rgb(5))),
        "gif": (encoded(grey(rgb(6)), "GIF", "L"), grey(rgb(6))),
        "grey": (encoded(rgb(7), mode="L"), grey(rgb(7))),
        "progressive": (encoded(rgb(8), progressive=True), rgb(8)),
        "padded_exif": (with_fill_bytes(with_orientation(rgb(13), 6)), rgb(13)),
        "webp_exif": (with_orientation(rgb(14), 8, "WEBP"), rgb(14)),
        "broken_exif": (with_broken_exif(encoded(rgb(9))), rgb(9)),
        "garbage_behind": (encoded(rgb(10)) + b"garbage" * 30, rgb(10)),
        "small": (encoded(rgb(11)[:20, :31]), rgb(11)[:20, :31]),
        "thin": (encoded(rgb(12, 90, 200)[:3]), rgb(12, 90, 200)[:3]),
        **{f"exif{n}": (with_orientation(rgb(20 + n, 70, 100), n), rgb(20 + n, 70, 100)) for n in range(1, 9)},
        "truncated": (encoded(rgb(30))[:-900], None),
        "no_end": (encoded(rgb(31))[:-2], rgb(31)),
        "truncated_png": (encoded(rgb(32), "PNG")[:-900], None),
        "header_only": (encoded(rgb(33))[:300], None),
        "empty": (b"", None),
        "text": (b"404 not found\n", None),
        "zeros": (bytes(4000), None),
        "wide": (encoded(np.zeros((2, 65501, 3), np.uint8), "PNG"), None),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", None),
        "float": (encoded(rgb(34), "TIFF", "F"), None),
    }
    return {f"{name}.JPEG": file for name, file in files.items()}


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def tar(members, form=tarfile.DEFAULT_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members.items():
            add(archive, name, content)
    return buffer.getvalue()


def write_devkit(path, val_ids, classes=None):
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
              "num_train_images")
    every = {**(classes or CLASSES), **NOT_CLASSES}
    rows = [(float(number), wnid, "a word, another", "what it means", float(3 * (wnid in NOT_CLASSES)),
             np.zeros((1, 3 * (wnid in NOT_CLASSES))), 0.0, 10.0)
            for wnid, number in sorted(every.items(), key=lambda item: item[1])]
    synsets = np.empty((len(rows), 1), [(name, object) for name in fields])
    for i, row in enumerate(rows):
        synsets[i, 0] = row
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets}, do_compression=True)
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/readme.txt", b"read me")
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            "".join(f"{number}\n" for number in val_ids).encode())


def write_archives(folder, plain=9):
    """The three archives; returns {part: {path in .lst: (content, RGB image or None)}}. `plain` is how many ordinary
    images a class has, beside its share of the odd ones."""
    train = {}
    for i, wnid in enumerate(CLASSES):
        for j in range(plain):
            height, width = ((75, 100), (100, 75), (60, 60), (200, 151))[j % 4]
            rgb = photograph(1000 * i + j, height, width)
            train[f"{wnid}/{wnid}_{j}.JPEG"] = (encoded(rgb), rgb)
    for i, (name, file) in enumerate(odd_files().items()):
        wnid = list(CLASSES)[i % len(CLASSES)]
        train[f"{wnid}/{wnid}_{name}"] = file
    by_class = {wnid: {path.split("/")[1]: content for path, (content, _) in train.items() if path.startswith(wnid)}
                for wnid in reversed(CLASSES)}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(
        tar({f"{wnid}.tar": tar(files) for wnid, files in by_class.items()}))

    val_ids = [(3, 1, 1, 2)[i % 4] for i in range(10)]
    wnid_of = {number: wnid for wnid, number in CLASSES.items()}
    val = {}
    for i in reversed(range(10)):  # the real one is not in the order of the numbers either
        rgb = photograph(5000 + i, 66, 88)
        val[f"{wnid_of[val_ids[i]]}/ILSVRC2012_val_{i + 1:08d}.JPEG"] = (encoded(rgb), rgb)
    (folder / "ILSVRC2012_img_val.tar").write_bytes(
        tar({path.split("/")[1]: content for path, (content, _) in val.items()}))
    write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", val_ids)
    return {"train": train, "val": val}


def write_folders(folder, images):
    """The same images as a tree: folder/{train,val}/<class>/<image>."""
    for part, files in images.items():
        for path, (content, _) in files.items():
            (folder / part / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / part / path).write_bytes(content)
