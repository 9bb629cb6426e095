"""What a frozen encoder knows: few-shot transfer, and robustness to corruptions. No gradients: closed forms alone."""
