"""`convc graph`: a net as a picture. `diagram` finds boxes and groups, `layout` places them, `svg` draws them."""
