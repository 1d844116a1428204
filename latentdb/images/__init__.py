"""Image files to pixels, and pixels to image files.

discover      find image files in folders
decode        any image file as uint8 pixels of one size
jpeg          JPEG markers, simplejpeg, files whose pixels were lost
pixel_range   uint8 pixels to the numbers a model takes, and back
render        write images, animations and contact sheets
"""
