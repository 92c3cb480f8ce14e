"""What a delta costs in quality, measured by running the model, and won back by distilling.

Needs torch and transformers; whatever only builds weights imports none of this.
"""
