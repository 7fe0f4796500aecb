from sandwatch._torchvision import ensure_torchvision

ensure_torchvision()  # before any test imports timm or torchvision
