"""Image files to pixels, and pixels to image files.

discover      find image files in folders
sources       which files hold images, and an image in one read back
members       what sources of images have in common
archives      tar and zip
arrays        .npy, .npz and the IDX files of MNIST
parquet       a column of images in a Parquet file
formats       which format a file has, and what else it may be
decode        any image file as uint8 pixels of one size
colour        8 bits, ICC profiles, transparency
tiff          TIFF layouts that Pillow does not decode right
jpeg          JPEG markers, simplejpeg, files whose pixels were lost
pixel_range   uint8 pixels to the numbers a model takes, and back
render        write images, animations and contact sheets
many          many files as pixels, by threads
values        images in memory as pixels
thumbnails    image files made small: as pixels, and as HTML for notebooks
fonts         a font that has the letters of a caption
"""
