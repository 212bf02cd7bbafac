"""Sources of images: image folders, files as torchvision stores them, and packages."""
