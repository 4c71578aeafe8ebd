"""What structural similarity and PSNR share."""
