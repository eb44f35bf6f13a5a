"""WeChat Pay, APIv3 and APIv2. The two versions share their trades. Source: WeChat Pay merchant documentation."""
