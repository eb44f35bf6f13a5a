"""The Alipay gateway. Source: Alipay Open Platform documentation."""
