"""Where images come from: image folders, torchvision's files, packages."""
