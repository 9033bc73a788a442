"""Where encoded images come from: folders, lists, tables, COCO, VQAv2."""
